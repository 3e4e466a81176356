"""What operators are given: alerts, the dashboard, and the guide to them."""
