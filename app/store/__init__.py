"""What a gateway keeps, and what its processes and other gateways share with it: one file per need."""
