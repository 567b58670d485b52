"""What a weight on cost would have done, on prompts an artifact was not trained on: savings, losses, intervals."""
