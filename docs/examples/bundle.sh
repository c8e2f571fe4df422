# What the log says, as a folder. DATA_DIR (or NATS_URL) is the relay's, which may go on meanwhile.
npx ff-relay export --into config

# The same as it was at a time, or after a fact.
npx ff-relay export --into earlier --at 17

# A control plane of the same environments and SDK keys. PROXY_KEY is the one that the relays have.
npx ff-relay import --from config --into control-plane-data
