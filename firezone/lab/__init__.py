"""The lab: portal, gateway and client on one machine, in namespaces that leave nothing behind."""
