"""What the book shows, a module for each kind of table or figure; none of it needs torch.

`kdrepro.tables` and `kdrepro.plots` hold what every chapter shows; here is what they are made of, and what one chapter
shows of its own.
"""
