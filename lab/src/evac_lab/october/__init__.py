"""The October 2022 story: a site of 32,000 servers goes dark, and everything that follows."""
