"""The engines, which send the requests: from this process, or from workers on a cluster."""
