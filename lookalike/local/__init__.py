"""Local clusters from one config (`supervisor`, `ephemeral`), and manifests for deployments (`manifests`)."""
