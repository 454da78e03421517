"""The images: where they come from, how they are split and how they reach the model in batches."""
