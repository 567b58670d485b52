"""What operators write: YAML and JSON as closed forms, checked and turned into domain types."""
