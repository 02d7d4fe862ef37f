package agent

import (
	"github.com/weft-mesh/weft/internal/flowexport"
	"github.com/weft-mesh/weft/internal/observe"
	"github.com/weft-mesh/weft/internal/state"
)

// Export says where a node's flows are sent; the zero value is nowhere.
type Export struct {
	Stdout    bool
	File      flowexport.File // a Path of "" for none
	Collector *flowexport.Collector
	Filter    observe.Filter
}

// newExporters makes what sends flows elsewhere. Nothing is opened or connected yet.
func newExporters(cfg Config, st *state.State, flows *observe.Store) (out []*flowexport.Exporter, err error) {
	e := cfg.Export
	shared := flowexport.Config{Node: cfg.Node, Version: cfg.Version, Flows: flows, State: st, Filter: e.Filter, Log: cfg.Log}
	if e.File.Path != "" {
		out = append(out, flowexport.NewFile(shared, e.File))
	}
	if e.Collector != nil {
		x, err := flowexport.NewOTLP(shared, *e.Collector)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	if e.Stdout {
		x, err := flowexport.NewStdout(shared)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}
