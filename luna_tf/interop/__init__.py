"""Other people's formats: official checkpoints, exported models."""
