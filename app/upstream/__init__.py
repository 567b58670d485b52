"""Which replica, and the exchange with it: Dispatcher, Replicas, UpstreamClient. HTTP stops here."""
