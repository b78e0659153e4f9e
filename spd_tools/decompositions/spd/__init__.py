"""SPD runs: targets whose weights are sums of rank-one components with learned causal importances."""
