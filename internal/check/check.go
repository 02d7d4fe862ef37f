// Package check judges whether a machine and a cluster can carry the mesh, and whether the mesh that is there is whole.
// It changes nothing. What is asked of an API server comes from internal/kube/survey, what is asked of the kernel from
// datapath; the judgements are functions of what they found.
package check

import "fmt"

// Level of a result.
type Level uint8

// Levels, the worst last.
const (
	OK Level = iota
	Warn
	Fail
)

func (l Level) String() string { return [...]string{"ok", "warn", "FAIL"}[l] }

// MarshalText gives ok, warn or fail.
func (l Level) MarshalText() ([]byte, error) {
	return []byte([...]string{"ok", "warn", "fail"}[l]), nil
}

// Result is one line: what was looked at, what was found, and what to do where that is not good.
type Result struct {
	Area   string `json:"area"` // machine, cluster, mesh
	Name   string `json:"name"`
	Level  Level  `json:"level"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

// Failed reports whether any result is a failure.
func Failed(all []Result) bool {
	for _, r := range all {
		if r.Level == Fail {
			return true
		}
	}
	return false
}

// report gathers the results of one area.
type report struct {
	area string
	out  []Result
}

func (r *report) ok(name, format string, args ...any) {
	r.out = append(r.out, Result{Area: r.area, Name: name, Found: fmt.Sprintf(format, args...)})
}

func (r *report) warn(name, remedy, format string, args ...any) {
	r.out = append(r.out, Result{Area: r.area, Name: name, Level: Warn, Found: fmt.Sprintf(format, args...), Remedy: remedy})
}

func (r *report) fail(name, remedy, format string, args ...any) {
	r.out = append(r.out, Result{Area: r.area, Name: name, Level: Fail, Found: fmt.Sprintf(format, args...), Remedy: remedy})
}
