"""Where and when: placement and schedule of one evacuation, chosen together by compiled kernels."""
