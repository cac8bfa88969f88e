"""Where requests are sent from: this process, or workers on a cluster."""
