"""The learning task: data of the clients, model and preprocessing; its options and notes."""
