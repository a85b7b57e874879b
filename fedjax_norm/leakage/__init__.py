"""What the parties of split learning could learn from what they are sent."""
