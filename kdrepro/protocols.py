"""The protocols: at what size a recipe runs."""

# On a part of the embedded data, which shows that it runs; and on all of a data set, which makes a row evidence.
DEMONSTRATIONS, EVIDENCE = ("smoke", "quick"), ("reduced", "paper")
PROTOCOLS = DEMONSTRATIONS + EVIDENCE
