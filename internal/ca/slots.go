package ca

import "sync"

const (
	// maxRequests are served at a time; others are told to come again.
	maxRequests = 64
	// maxOfSource come from one address: an agent asks for one batch after the other, and a pod that floods the CA must
	// not keep agents out.
	maxOfSource = 4
)

// slots bounds what is served at a time.
type slots struct {
	mu   sync.Mutex
	all  int
	from map[string]int // by address
}

// take takes a slot for a source; false if there is none. Give it back by give.
func (s *slots) take(source string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxRequests || s.from[source] >= maxOfSource {
		return false
	}
	if s.from == nil {
		s.from = map[string]int{}
	}
	s.all++
	s.from[source]++
	return true
}

func (s *slots) give(source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.from[source]--; s.from[source] == 0 {
		delete(s.from, source)
	}
}
