"""From addresses to configuration: what endpoints serve, what is known of those models, and the files that say so."""
