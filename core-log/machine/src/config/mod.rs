//! Configuration of topics and brokers.
