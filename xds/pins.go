package xds

// pins counts which clusters route tables mirror to and which they use.
//
// Envoy fetches a cluster that a request is routed to, but not one that it is mirrored to: those are pinned, sent
// without being asked for. A pinned cluster that is not mirrored to any more stays while a table uses it, for Envoy
// had no reason to ask for it by name, and taking it away would cut its requests.
type pins struct {
	mirrors, uses map[string]int
	pinned        map[string]struct{}
}

func newPins() pins {
	return pins{mirrors: map[string]int{}, uses: map[string]int{}, pinned: map[string]struct{}{}}
}

// replace takes in that a table changed what it mirrors to and uses, and gives the clusters to pin and to unpin.
func (p *pins) replace(oldMirrors, oldUses, mirrors, uses []string) (add, drop []string) {
	touched := map[string]struct{}{}
	count := func(m map[string]int, names []string, by int) {
		for _, n := range names {
			if m[n] += by; m[n] == 0 {
				delete(m, n)
			}
			touched[n] = struct{}{}
		}
	}
	count(p.mirrors, mirrors, 1)
	count(p.uses, uses, 1)
	count(p.mirrors, oldMirrors, -1)
	count(p.uses, oldUses, -1)
	for n := range touched {
		_, was := p.pinned[n]
		is := p.mirrors[n] > 0 || was && p.uses[n] > 0
		switch {
		case is && !was:
			p.pinned[n] = struct{}{}
			add = append(add, n)
		case was && !is:
			delete(p.pinned, n)
			drop = append(drop, n)
		}
	}
	return add, drop
}
