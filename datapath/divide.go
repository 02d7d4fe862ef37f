package datapath

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/weft-mesh/weft/internal/model"
)

// A Division becomes slots: each endpoint has as many as its part of its backend's share takes. The kernel picks one of all with
// equal chance, as it does for a Service without a route.

// refusedSlots are what stands for a backend that has no endpoint, of IPv4 and IPv6: nothing can listen there.
var refusedSlots = map[bool]weftEndpoint{
	false: encode(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)),
	true:  encode(netip.AddrPortFrom(netip.IPv6Loopback(), 0)),
}

// divided returns the slots of a Division in one family of addresses, at most model.MaxDivision.
func divided(d *model.Division, v6 bool) []weftEndpoint {
	var weights []uint64
	var endpoints [][]weftEndpoint
	for _, s := range d.Shares {
		if s.Weight == 0 {
			continue
		}
		var of []weftEndpoint
		if !s.Invalid {
			of, _ = backendsOf(&model.Endpoints{Backends: s.Endpoints}, v6)
		}
		if len(of) == 0 {
			of = []weftEndpoint{refusedSlots[v6]}
		}
		weights, endpoints = append(weights, uint64(s.Weight)), append(endpoints, of)
	}
	if slots := exactly(weights, endpoints); slots != nil {
		return slots
	}
	return nearly(weights, endpoints)
}

// exactly gives each endpoint its part. It returns nil if that takes more slots than there may be.
func exactly(weights []uint64, endpoints [][]weftEndpoint) []weftEndpoint {
	common := uint64(1)
	for _, of := range endpoints {
		n := uint64(len(of))
		if common = common / gcd(common, n) * n; common > model.MaxDivision {
			return nil
		}
	}
	divisor, total := uint64(0), uint64(0)
	for i, of := range endpoints {
		divisor = gcd(divisor, weights[i]*(common/uint64(len(of))))
		total += weights[i] * common
	}
	if divisor == 0 || total/divisor > model.MaxDivision {
		return nil
	}
	var slots []weftEndpoint
	for i, of := range endpoints {
		for range weights[i] * (common / uint64(len(of))) / divisor {
			slots = append(slots, of...)
		}
	}
	return slots
}

// nearly divides all slots that there may be by the largest remainders. The endpoints of a backend take turns, and where there are
// more of them than its slots, the last get none.
func nearly(weights []uint64, endpoints [][]weftEndpoint) []weftEndpoint {
	if len(weights) == 0 {
		return nil
	}
	total := uint64(0)
	for _, w := range weights {
		total += w
	}
	counts, order := make([]uint64, len(weights)), make([]int, len(weights))
	free := uint64(model.MaxDivision) - uint64(len(weights)) // each has one
	left := free
	for i, w := range weights {
		counts[i], order[i] = 1+w*free/total, i
		left -= w * free / total
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(weights[b]*free%total, weights[a]*free%total)
	})
	for _, i := range order[:left] {
		counts[i]++
	}
	var slots []weftEndpoint
	for i, of := range endpoints {
		for n := range counts[i] {
			slots = append(slots, of[n%uint64(len(of))])
		}
	}
	return slots
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
