"""The benchmark: winpop beside other servers, measured in the same run (`make benchmark`)."""
