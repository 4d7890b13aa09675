"""The train step, who generates its responses, and the loop around both."""
