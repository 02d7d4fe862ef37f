package access

import (
	"crypto/sha256"
	"sync"
	"time"
)

// memory keeps values for a short time, and not more than a number of them.
type memory[T any] struct {
	most int

	mu  sync.Mutex
	all map[[sha256.Size]byte]kept[T]
}

type kept[T any] struct {
	value T
	until time.Time
}

func newMemory[T any](most int) *memory[T] {
	return &memory[T]{most: most, all: map[[sha256.Size]byte]kept[T]{}}
}

func (m *memory[T]) get(key [sha256.Size]byte, now time.Time) (T, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.all[key]
	if !ok || !now.Before(k.until) {
		var none T
		return none, false
	}
	return k.value, true
}

// put keeps a value. If there is no room, those that are too old go, else all.
func (m *memory[T]) put(key [sha256.Size]byte, value T, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.all[key]; !known && len(m.all) >= m.most {
		for k, v := range m.all {
			if !now.Before(v.until) {
				delete(m.all, k)
			}
		}
		if len(m.all) >= m.most {
			clear(m.all)
		}
	}
	m.all[key] = kept[T]{value, now.Add(remembered)}
}
