"""What gateways cost: CPU per request and latency, in one run, on one machine. `make bench` runs it.

Every gateway stands in front of the same two stand-ins for model servers and answers the same requests; each answer is
checked to the byte. CPU is that of the gateway's whole process tree, read before and after, so it holds on a machine
that does other things besides; latency holds on an idle one only.
"""
