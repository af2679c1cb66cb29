"""What the machine reaches, measured inside passes of synthetic models."""
