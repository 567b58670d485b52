"""What a gateway keeps, and what its processes and other gateways share with it: one folder per need."""
