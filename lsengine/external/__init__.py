"""Other people's code: the user's own modules, torchvision, and optional libraries."""
