"""What is learned: data, clients, model and preprocessing."""
