package nodereport

import (
	"cmp"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// composer makes reports of a node's rows.
type composer struct {
	st *state.State
	// counts are those that incidents were found from last; nil before the first.
	counts    *Counts
	incidents []Incident
	// kept is what the agent before this one reported as refused. It is reported until the time until, when Envoy has
	// answered this agent: a condition must not change because an agent starts.
	kept  []*model.Rejection
	until time.Time
}

// resume goes on with what an earlier agent of the node reported.
func (c *composer) resume(before Report, until time.Time) {
	c.counts, c.incidents, c.kept, c.until = before.Counts, before.Incidents, before.Refused, until
}

// report returns what the node has to say.
func (c *composer) report(snap *state.Snapshot, now time.Time) Report {
	c.follow(snap, now)
	r := Report{Incidents: slices.Clone(c.incidents), Counts: c.counts}
	for x := range c.st.Rejections.All(snap) {
		r.Refused = append(r.Refused, x)
	}
	if now.Before(c.until) {
		for _, k := range c.kept {
			if !slices.ContainsFunc(r.Refused, func(x *model.Rejection) bool { return x.Resource == k.Resource }) {
				r.Refused = append(r.Refused, k)
			}
		}
	}
	r.Refused = fairly(r.Refused)
	return r
}

// fairly orders refusals so that the many of one namespace do not push out those of others: first one of each namespace. What is over
// a limit comes after all that Envoy refused.
func fairly(all []*model.Rejection) []*model.Rejection {
	turn, taken := map[*model.Rejection]int{}, map[string]int{}
	for _, x := range all {
		namespace := ""
		if len(x.Objects) > 0 {
			namespace = x.Objects[0].Namespace
		}
		turn[x] = taken[namespace]
		taken[namespace]++
	}
	slices.SortStableFunc(all, func(a, b *model.Rejection) int {
		return cmp.Or(model.CompareOverBudget(a, b), turn[a]-turn[b])
	})
	return all
}

// follow takes in what weft proxy reports. While it does not answer its row holds no counts.
func (c *composer) follow(snap *state.Snapshot, now time.Time) {
	c.incidents = slices.DeleteFunc(c.incidents, func(i Incident) bool { return now.Sub(time.Unix(i.Time, 0)) > remembered })
	p, ok := c.st.Proxies.Get(snap, (*model.Proxy).Key(nil))
	if !ok || p.State == "" {
		return
	}
	counts := countsOf(p)
	if c.counts != nil {
		for _, i := range counts.since(*c.counts, p, now) {
			c.add(i)
		}
	}
	c.counts = &counts
}

// add leaves out an incident that follows one of its kind soon.
func (c *composer) add(i Incident) {
	soon := slices.ContainsFunc(c.incidents, func(o Incident) bool {
		return o.Kind == i.Kind && time.Unix(i.Time, 0).Sub(time.Unix(o.Time, 0)) < again
	})
	if !soon {
		c.incidents = append(c.incidents, i)
	}
}
