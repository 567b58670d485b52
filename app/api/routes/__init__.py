"""Control routes: few calls each, served by FastAPI."""
