"""Other people's code: the user's own modules and optional libraries."""
