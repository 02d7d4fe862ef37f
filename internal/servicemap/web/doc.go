// Package web serves the service map as a page, and what the page asks for:
//
//	GET /                 the page; it and what it loads are in static/
//	GET /v1/map           servicemap.Graph
//	GET /v1/map/flows     []observe.Flow: the last of an edge, the newest first; the query is servicemap.Pair's
//
// What is below /v1/ needs a bearer token. The page keeps it in the tab's sessionStorage and sends it as a header: there is no
// cookie, so no other page can ask in the reader's name. Everything else that the page shows comes from traffic and from
// objects of tenants, so it is put into the page as text only, and the Content-Security-Policy allows nothing but the files
// here.
//
// static/cytoscape.min.js and static/cytoscape-dagre.min.js are https://js.cytoscape.org and its layout, as
// install/cytoscape/get.sh fetches them.
package web
