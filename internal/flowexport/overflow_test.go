package flowexport

import "testing"

// TestOverflowDoesNotHideWhy: while a target takes nothing the queue is full too, and the row says why it takes nothing.
func TestOverflowDoesNotHideWhy(t *testing.T) {
	x := &Exporter{changed: make(chan struct{}, 1)}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{x.overflowed, "flows come faster than it takes them"},
		{func() { x.fail("connection refused") }, "connection refused"},
		{x.overflowed, "connection refused"},
		{func() { x.fail("") }, ""},
	} {
		if step.do(); x.err != step.want {
			t.Errorf("the error is %q, want %q", x.err, step.want)
		}
	}
}
