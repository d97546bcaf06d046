"""`capsfusion check`: proves that nothing is lost, doubled, half-written or stuck, or says what is. Reads only.

A module for each hand-over; each of its functions yields ``Finding``s.
"""
