//! Signed pointers to snapshots in the Mainline DHT (BEP 44) and the policy for trusting them.
