// The routes of the service, by Swagger UI, where it could be loaded.

/* global SwaggerUIBundle */
if (globalThis.SwaggerUIBundle) SwaggerUIBundle({ url: "openapi.json", dom_id: "#routes", deepLinking: true });
