"""The one place that speaks to the Hugging Face Hub: datasets and models are published and pulled at a commit."""
