package nodereport

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/weft-mesh/weft/internal/model"
)

// version is that of the form of reports. A reader leaves fields alone that it does not know, and reports of another
// version.
const version = 1

// The bounds of a report.
const (
	maxBytes    = 32 << 10
	maxRefused  = 64
	maxObjects  = 256 // of all refusals together
	maxMessage  = 500 // bytes
	maxResource = 600
	maxName     = 253 // of each part of an object's reference
)

// Report is what a node tells the controller.
type Report struct {
	Version int `json:"version"`
	// Refused is what the node's Envoy refused. Omitted counts refusals that did not fit.
	Refused []*model.Rejection `json:"refused,omitempty"`
	Omitted int                `json:"omitted,omitempty"`
	// Incidents are those of the last half hour, the oldest first. Counts are what they were found from.
	Incidents []Incident `json:"incidents,omitempty"`
	Counts    *Counts    `json:"counts,omitempty"`
}

// Encode returns the report as text; "" if it says nothing.
func (r Report) Encode() string {
	if len(r.Refused)+len(r.Incidents) == 0 {
		return ""
	}
	r.Version = version
	r = r.bounded()
	for {
		text, err := json.Marshal(r)
		if err == nil && len(text) <= maxBytes {
			return string(text)
		}
		if len(r.Refused) == 0 {
			return ""
		}
		half := len(r.Refused) / 2
		r.Omitted += len(r.Refused) - half
		r.Refused = r.Refused[:half]
	}
}

// Decode reads what a node wrote. What exceeds the bounds is left out, and text is made printable.
func Decode(node, text string) (Report, error) {
	var r Report
	if text == "" {
		return r, nil
	}
	if len(text) > maxBytes {
		return r, fmt.Errorf("report of node %s: %d bytes are more than %d", node, len(text), maxBytes)
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return Report{}, fmt.Errorf("report of node %s: %w", node, err)
	}
	if r.Version != version {
		return Report{}, fmt.Errorf("report of node %s: version %d is not %d", node, r.Version, version)
	}
	r = r.bounded()
	for _, x := range r.Refused {
		x.Node = node
	}
	return r, nil
}

// bounded returns a copy within the bounds.
func (r Report) bounded() Report {
	objects := maxObjects
	var refused []*model.Rejection
	for _, x := range r.Refused {
		if x == nil {
			continue
		}
		if len(refused) == maxRefused {
			r.Omitted++
			continue
		}
		y := &model.Rejection{Resource: Printable(x.Resource, maxResource), Message: Printable(x.Message, maxMessage)}
		for _, o := range x.Objects {
			if objects > 0 && named(o.ObjectRef) {
				objects--
				y.Objects = append(y.Objects, o)
			}
		}
		refused = append(refused, y)
	}
	r.Refused = refused
	var incidents []Incident
	for _, i := range r.Incidents {
		if i.Kind.known() && len(incidents) < maxIncidents {
			i.Detail = Printable(i.Detail, maxDetail)
			incidents = append(incidents, i)
		}
	}
	r.Incidents = incidents
	return r
}

func named(o model.ObjectRef) bool {
	for _, part := range []string{o.Group, o.Kind, o.Namespace, o.Name} {
		if len(part) > maxName {
			return false
		}
	}
	return o.Kind != "" && o.Name != ""
}

// Printable makes one line of a text, without what a terminal or a browser would take for more than text, and cuts it
// after so many bytes.
func Printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + " ..."
}
