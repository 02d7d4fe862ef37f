package main

import (
	"context"
	"fmt"
	"slices"
	"syscall"

	"github.com/weft-mesh/weft/internal/sandbox"
)

// variant is an agent with arguments of its own.
type variant struct {
	name string
	args []string
}

// takeTurns starts each agent once a round on one node and calls each with the processes of the agent and of Envoy. More rounds
// than one are made balanced. Envoy is restarted too: the connections and the listeners of an agent before would serve some agents and not others.
func takeTurns(ctx context.Context, n *sandbox.Node, rounds int, variants []variant, each func(v variant, proxies []int) error) error {
	if rounds > 1 {
		rounds = balancedRounds(len(variants), rounds)
	}
	common := slices.Clone(n.AgentArgs)
	for round := range rounds {
		for _, i := range order(len(variants), round) {
			v := variants[i]
			proxies, err := turn(ctx, n, slices.Concat(common, v.args))
			if err == nil {
				err = each(v, proxies)
			}
			if err != nil {
				return fmt.Errorf("an agent that observes %s, round %d: %w", v.name, round+1, err)
			}
		}
		progress("agents in turns: round %d of %d", round+1, rounds)
	}
	return nil
}

// turn replaces the agent by one with these arguments, and Envoy by a new one.
func turn(ctx context.Context, n *sandbox.Node, args []string) ([]int, error) {
	if err := n.StopAgent(syscall.SIGTERM); err != nil {
		return nil, err
	}
	n.AgentArgs = args
	if err := n.StartAgent(); err != nil {
		return nil, err
	}
	if err := n.Ready(ctx); err != nil {
		return nil, err
	}
	if err := n.Proxy.Restart(ctx); err != nil {
		return nil, err
	}
	if err := n.Ready(ctx); err != nil {
		return nil, err
	}
	st, err := n.Proxy.Status(ctx)
	if err != nil {
		return nil, err
	}
	return []int{n.AgentPID(), st.PID}, nil
}

// order is who comes when in a round of n. In n rounds, or 2n if n is odd, each comes after each other equally often, so that
// what one leaves behind meets all others alike: E. J. Williams, Experimental designs balanced for the estimation of
// residual effects of treatments, 1949.
func order(n, round int) []int {
	out := make([]int, n)
	for i := range out {
		step := (i + 1) / 2
		if i%2 == 0 {
			step = n - step
		}
		out[i] = (step + round) % n
	}
	if n%2 == 1 && round/n%2 == 1 {
		slices.Reverse(out)
	}
	return out
}

// balancedRounds is the number of rounds, at least so many, after which each of n has come after each other equally often.
func balancedRounds(n, least int) int {
	if n%2 == 1 {
		n *= 2
	}
	return (least + n - 1) / n * n
}
