"""Clusters from one config on one machine (`supervisor`, `ephemeral`), and the manifests that start one elsewhere
(`manifests`)."""
