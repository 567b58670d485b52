"""Which replica, and the exchange with it: Dispatcher, Replicas, UpstreamClient. Only `client.py` knows aiohttp."""
