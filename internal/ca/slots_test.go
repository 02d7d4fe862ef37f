package ca

import (
	"strconv"
	"testing"
)

// TestSlots: neither all together nor one of them takes more than there is for them, and what is given back is there.
func TestSlots(t *testing.T) {
	var s slots
	for range maxOfSource {
		if !s.take("flood") {
			t.Fatal("refused too early")
		}
	}
	if s.take("flood") {
		t.Error("one source takes more than its share")
	}
	taken := maxOfSource
	for i := range 2 * maxRequests {
		if s.take("agent-" + strconv.Itoa(i)) {
			taken++
		}
	}
	if taken != maxRequests {
		t.Errorf("%d at a time, want %d", taken, maxRequests)
	}
	s.give("flood")
	if !s.take("flood") || s.take("late") {
		t.Error("a slot that was given back is not what is there")
	}
	for range maxOfSource {
		s.give("flood")
	}
	if _, ok := s.from["flood"]; ok || s.all != maxRequests-maxOfSource {
		t.Errorf("%d slots are taken, sources %v", s.all, s.from)
	}
}
