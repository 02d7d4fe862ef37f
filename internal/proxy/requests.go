package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/prometheus/common/expfmt"
	prommodel "github.com/prometheus/common/model"

	"github.com/weft-mesh/weft/internal/model"
)

// Requests asks Envoy for what it has counted of requests. Counters are read by their names, because those that an
// Envoy took over from the one before it have no tags. Histograms are not taken over, and only the format of
// Prometheus tells their sums.
func (c *Client) Requests(ctx context.Context) (*model.RequestStats, error) {
	a := newAdmin(filepath.Join(or(c.RunDir, DefaultRunDir), AdminSocket))
	get := func(path, filter string) ([]byte, error) {
		code, body, err := a.do(ctx, http.MethodGet, path+url.QueryEscape(filter))
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("Envoy's admin at %s answers %d to a question for its statistics", a.socket, code)
		}
		return body, err
	}
	counters, err1 := get("/stats?format=json&type=Counters&filter=",
		`^(`+model.RequestScope+`\.(`+model.RequestCounter+`|`+model.CopyCounter+`)\.|http\.[^.]+\.downstream_rq_completed$)`)
	durations, err2 := get("/stats/prometheus?filter=", `^`+model.RequestScope+`\.`+model.RequestDuration+`\.`)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	out := &model.RequestStats{Counters: map[string]uint64{}, Durations: map[string]model.DurationStats{}, Completed: map[string]uint64{}}
	if err := parseCounters(counters, out); err != nil {
		return nil, err
	}
	return out, parseDurations(durations, out)
}

func parseCounters(body []byte, out *model.RequestStats) error {
	var answer struct {
		Stats []struct {
			Name  string  `json:"name"`
			Value *uint64 `json:"value"`
		} `json:"stats"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("read Envoy's statistics: %w", err)
	}
	for _, s := range answer.Stats {
		if s.Value == nil {
			continue
		}
		if prefix, ok := strings.CutPrefix(s.Name, "http."); ok {
			prefix, _, _ = strings.Cut(prefix, ".")
			out.Completed[prefix] = *s.Value
		} else {
			out.Counters[s.Name] = *s.Value
		}
	}
	return nil
}

// parseDurations gives histograms the names that counters have.
func parseDurations(body []byte, out *model.RequestStats) error {
	parser := expfmt.NewTextParser(prommodel.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("read Envoy's statistics: %w", err)
	}
	for _, m := range families["envoy_"+model.RequestScope+"_"+model.RequestDuration].GetMetric() {
		h := m.GetHistogram()
		if h == nil {
			continue
		}
		var tags string
		for _, l := range m.GetLabel() {
			if "|"+strings.TrimPrefix(l.GetName(), "_") == model.TagReporter {
				tags = l.GetValue()
			}
		}
		name := model.RequestScope + "." + model.RequestDuration + "." + model.TagReporter + "." + tags
		d := model.DurationStats{Sum: h.GetSampleSum()}
		for _, b := range h.GetBucket() {
			d.Cumulative = append(d.Cumulative, b.GetCumulativeCount())
		}
		out.Durations[name] = d
	}
	return nil
}
