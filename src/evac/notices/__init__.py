"""What people are told, and when: concerns that hold now and what was known before in, messages out.

Pure: no clock, no file, no network. Who looks at the world, keeps what was known and sends is `app`.
"""
