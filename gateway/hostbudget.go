package gateway

// A request that no route of the most specific hostname matches goes to those of wider names, so Envoy gets the rules of a wide
// name once more for each narrower host of the listener: 128 matches of *.example.com are 128,000 beside a thousand hosts of it.
// A copy counts against the namespace of the younger of the two routes.

// listenerHosts are hosts that a route has on a listener.
type listenerHosts struct {
	listener string // key
	hosts    []string
}

// hostDemand returns the hosts that a route may have on listeners of Gateways.
func (v *view) hostDemand(r *route) []listenerHosts {
	if r.streams() {
		return nil
	}
	var out []listenerHosts
	seen := map[string]bool{}
	for _, p := range r.parents[:min(len(r.parents), maxParents)] {
		merged := v.listenersOf(parentObject(p, r.ref.Namespace))
		if merged == nil {
			continue
		}
		for _, l := range merged.listeners {
			if seen[l.key] {
				continue
			}
			seen[l.key] = true
			on := listenerHosts{listener: l.key}
			for _, h := range v.hostsOn(l, r) {
				on.hosts = append(on.hosts, h.name)
			}
			if len(on.hosts) > 0 {
				out = append(out, on)
			}
		}
	}
	return out
}

// hostCopies counts what Envoy holds once more for narrower hosts.
type hostCopies struct {
	hosts map[listenerHost]bool
	below map[listenerHost]int  // by a wildcard, the narrower hosts
	wide  map[listenerHost]load // by a wildcard, what its routes take
}

type listenerHost struct{ listener, host string }

func newHostCopies() *hostCopies {
	return &hostCopies{hosts: map[listenerHost]bool{}, below: map[listenerHost]int{}, wide: map[listenerHost]load{}}
}

// of returns what the copies of a route take, and those of others that its hosts need, beside the routes that were added.
func (c *hostCopies) of(d *routeDemand) (sum load) {
	for _, on := range d.hosts {
		for _, h := range on.hosts {
			at := listenerHost{on.listener, h}
			sum = sum.plus(d.each.times(c.below[at]))
			if c.hosts[at] {
				continue
			}
			for _, w := range widerHosts(h) {
				sum = sum.plus(c.wide[listenerHost{on.listener, w}])
			}
		}
	}
	return sum
}

// add adds a route, and returns what of gave before.
func (c *hostCopies) add(d *routeDemand) load {
	sum := c.of(d)
	for _, on := range d.hosts {
		for _, h := range on.hosts {
			at := listenerHost{on.listener, h}
			if !c.hosts[at] {
				c.hosts[at] = true
				for _, w := range widerHosts(h) {
					c.below[listenerHost{on.listener, w}]++
				}
			}
			if h[0] == '*' {
				c.wide[at] = c.wide[at].plus(d.each)
			}
		}
	}
	return sum
}
