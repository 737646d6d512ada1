"""The code-free model format: graph.json, a list of calls of operators from a closed table, and weights.safetensors."""
