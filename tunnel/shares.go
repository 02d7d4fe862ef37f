package tunnel

import "sync/atomic"

// pool is an amount that several users share. A user may have as much as weight times what is left. So one who takes all
// that it can leaves something to the others, and gets less when they need more.
type pool struct {
	most, weight int64
	used         atomic.Int64
}

// share is what one user has of a pool.
type share struct {
	pool *pool
	used atomic.Int64
}

func (p *pool) newShare() *share { return &share{pool: p} }

// take reserves n, and reports whether there was room.
func (s *share) take(n int) bool {
	all, own := s.pool.used.Add(int64(n)), s.used.Add(int64(n))
	if own <= s.pool.weight*(s.pool.most-all) {
		return true
	}
	s.give(n)
	return false
}

// give returns what was taken.
func (s *share) give(n int) {
	s.used.Add(-int64(n))
	s.pool.used.Add(-int64(n))
}
