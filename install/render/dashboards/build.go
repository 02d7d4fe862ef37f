package main

import (
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// A board is a dashboard: its file without .json, its title, what the reader chooses, and rows of panels.
type board struct {
	name, title, about string
	choose             []choice
	rows               []row
}

// A choice is a variable whose values a label of a metric has.
type choice struct {
	name, query string
	all         bool // several values, or all, may be chosen
}

type row struct {
	title  string
	panels []panel
}

// A panel shows queries: over time, or their last values, as numbers or as a table with a column for each query.
type panel struct {
	kind               kind
	title, about, unit string
	queries            []query
}

type kind int

const (
	overTime kind = iota
	number
	list
)

// A query is PromQL and the legend of its series; the title of its column in a list.
type query struct{ legend, expr string }

// The grid of Grafana is 24 wide.
const (
	graphWidth, graphHeight   = 12, 8
	numberWidth, numberHeight = 6, 4
	listWidth                 = 24
)

var source = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}

func (b board) build() (dashboard.Dashboard, error) {
	d := dashboard.NewDashboardBuilder("Weft / "+b.title).Uid("weft-"+b.name).Description(b.about).Tags([]string{"weft"}).
		Time("now-1h", "now").Refresh("30s").Timezone(common.TimeZoneBrowser).Tooltip(dashboard.DashboardCursorSyncCrosshair).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		Link(dashboard.NewDashboardLinkBuilder("Weft").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"weft"}).
			AsDropdown(true).IncludeVars(true).KeepTime(true))
	for _, c := range b.choose {
		d.WithVariable(c.build())
	}
	id := uint32(0)
	for _, r := range b.rows {
		id++
		d.WithRow(dashboard.NewRowBuilder(r.title).Id(id))
		for _, p := range r.panels {
			id++
			d.WithPanel(p.build(id))
		}
	}
	return d.Build()
}

func (c choice) build() cog.Builder[dashboard.VariableModel] {
	v := dashboard.NewQueryVariableBuilder(c.name).Datasource(source).Query(dashboard.StringOrMap{String: &c.query}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortAlphabeticalAsc)
	if c.all {
		v.Multi(true).IncludeAll(true).AllValue(".*").
			Current(dashboard.VariableOption{Text: dashboard.StringOrArrayOfString{String: cog.ToPtr("All")}, Value: dashboard.StringOrArrayOfString{String: cog.ToPtr("$__all")}})
	}
	return v
}

func (p panel) build(id uint32) cog.Builder[dashboard.Panel] {
	switch p.kind {
	case number:
		return stat.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).
			Span(numberWidth).Height(numberHeight).Targets(p.targets()).ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}))
	case list:
		return p.list(id)
	default:
		return timeseries.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Unit(p.unit).Datasource(source).Min(0).
			Span(graphWidth).Height(graphHeight).Targets(p.targets())
	}
}

// list joins the queries by their labels; a column is named as the query's legend.
func (p panel) list(id uint32) cog.Builder[dashboard.Panel] {
	names := map[string]any{}
	for i, q := range p.queries {
		names["Value #"+refID(i)] = q.legend
	}
	return table.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Datasource(source).Span(listWidth).Height(graphHeight).
		Targets(p.targets()).
		WithTransformation(dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}}).
		WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
			"excludeByName": map[string]any{"Time": true}, "renameByName": names,
		}})
}

func (p panel) targets() []cog.Builder[variants.Dataquery] {
	var out []cog.Builder[variants.Dataquery]
	for i, q := range p.queries {
		t := prometheus.NewDataqueryBuilder().RefId(refID(i)).Expr(q.expr).LegendFormat(q.legend)
		switch p.kind {
		case number:
			t.Instant()
		case list:
			t.Instant().Format(prometheus.PromQueryFormatTable)
		default:
			t.Range()
		}
		out = append(out, t)
	}
	return out
}

func refID(i int) string { return fmt.Sprintf("%c", 'A'+i) }
