"""Pictures of planes from above."""
