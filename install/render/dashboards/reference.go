package main

import (
	"fmt"
	"strings"
)

const intro = `# Dashboards

The chart has dashboards for Grafana in ` + "`install/chart/dashboards`" + `: import them by hand, or let the chart make ConfigMaps that Grafana's sidecar finds (` + "`metrics.dashboards.create`" + `). This page lists what each panel asks Prometheus. ` + "`make install-manifest`" + ` writes it and the dashboards; a test on a cluster puts every query to a Prometheus that scrapes it.

Panels whose queries begin with ` + "`envoy_`" + ` need a second scrape of the agents, of ` + "`/metrics/proxy`" + `. All others need ` + "`/metrics`" + ` of agents and controllers.
`

// reference returns the page of all boards.
func reference() []byte {
	var out strings.Builder
	out.WriteString(intro)
	for _, b := range boards {
		fmt.Fprintf(&out, "\n## %s\n%s\n", b.title, b.about)
		for _, r := range b.rows {
			fmt.Fprintf(&out, "\n### %s: %s\n", b.title, r.title)
			for _, p := range r.panels {
				fmt.Fprintf(&out, "\n**%s.** %s\n```\n", p.title, p.about)
				for _, q := range p.queries {
					out.WriteString(q.expr + "\n")
				}
				out.WriteString("```\n")
			}
		}
	}
	return []byte(out.String())
}
